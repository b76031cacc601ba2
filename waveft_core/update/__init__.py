"""The update in a model's weights: put in, trained, dialled, taken out."""
