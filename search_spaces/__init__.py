"""Search space files, one YAML each; `bench spaces` lists and shows them."""
