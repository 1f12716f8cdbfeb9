"""A package, so that no package of that name among the installed ones is taken for it."""
