"""From pictures, videos and cameras to what a model finds in them."""
