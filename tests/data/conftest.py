"""Shared by the tests of data."""

# Nested lists whose text would fill the memory.
ENDLESS: list = ["x"] * 10
for _ in range(20):
    ENDLESS = [ENDLESS] * 10
