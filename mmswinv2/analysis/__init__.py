"""What a config costs before it is trained, and what a training and its predictions tell."""
