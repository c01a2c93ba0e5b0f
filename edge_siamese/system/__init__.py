"""The operating system and the machine: files, processes, board, network and retry delays."""
