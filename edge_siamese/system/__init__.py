"""The machine underneath: files, board, network and retry delays."""
