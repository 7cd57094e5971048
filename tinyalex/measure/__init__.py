"""What a network costs, how fast it is, and whether it is right on this machine."""
