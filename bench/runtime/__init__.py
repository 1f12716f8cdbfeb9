"""What a shipped model needs: onnxruntime, numpy and Pillow, and nothing else of `bench`."""
