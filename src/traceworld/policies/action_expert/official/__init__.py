"""Compat with the released policy (`Yoonkyo/mu0`): how it looks and reads, and its checkpoint."""
