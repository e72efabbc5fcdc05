"""What the stage `[evaluate]` is made of: models to score, encoders, scores, the page that shows them."""
