"""From a store to the batches of a step."""
