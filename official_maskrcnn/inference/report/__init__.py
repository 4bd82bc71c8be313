"""What a model gets right and wrong, as a page that needs nothing but a browser."""
