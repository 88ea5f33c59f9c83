"""Everything that makes the shipped model: data, training, evaluation. Nothing of the product imports it but tests."""
