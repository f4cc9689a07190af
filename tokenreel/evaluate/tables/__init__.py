"""The papers' tables of results."""
