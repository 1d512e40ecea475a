"""Weights trained elsewhere, brought into our layers."""
