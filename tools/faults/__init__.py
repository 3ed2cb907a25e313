"""The fault kit: kills, failing system calls, bit flips, full disks, power cuts and clock jumps, from a seed.

``python -m tools.faults KIND --seed N --rounds N`` runs one kind; see ``docs/reliability.md`` for what each one shows.
"""
