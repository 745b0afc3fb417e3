"""The contract and the only loop."""
