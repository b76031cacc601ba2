"""The nodes, one a file; `extension.py` lists them."""
