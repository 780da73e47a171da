"""What the trainers of the model zoo share: reference preprocessing, heads, golden samples, packages."""
