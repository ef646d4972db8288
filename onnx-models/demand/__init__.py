"""The demand model: features, network, training, evaluation, export."""
