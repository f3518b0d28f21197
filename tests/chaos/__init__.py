"""The proof: a fleet under faults on a real Kafka, and a checker that reads what the topics say.

`python -m tests.chaos --minutes 1 --seed 7` is one run; `guarantees.md` in `docs` says what it stands for. In reading
order: `workload` (what is sent), `interpreter` (the agents), `checker` (what must hold), `nemesis` (the faults),
`run` (puts them together), `mutations` (the checker's own proof: each switches one mechanism off).
"""
