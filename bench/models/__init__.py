"""Backbones from timm: their weights, their five parts, and freezing."""
