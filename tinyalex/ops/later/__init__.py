"""What AlexNet does not have: an operation a file, and beside them `plain` and `reference` of these."""
