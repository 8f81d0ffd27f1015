"""The trace-conditioned action expert (mu0-paper §3.4, App. B.4): features of a frozen μ0 in, action chunks out."""
