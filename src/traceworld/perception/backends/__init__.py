"""Adapters around other people's models: thin, imported only when made; conventions are converted by `perception.conventions`."""
