"""Compat with the released μ0 (`Yoonkyo/mu0`, `furonghuang-lab/mu0`): its switches, its files, its checkpoint as ours."""
