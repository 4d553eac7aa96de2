"""How open a model is, by evidence, and what its licence lets a person do.

One subject (`subject.py`: the files of a model, read lazily) and one record of what is claimed of
it (`record.py`: from its card, the catalogue or another index) go through the checks of `checks/`;
their evidence (`evidence.py`) and the claims give each component (`components.py`) a state, and
`rules.py` turns states into verdicts, once with what is declared and once with what was verified.
`may.py` answers from the clauses of licences (`terms.py`) and the facts of a use (`facts.py`).

Rules and verdicts are pure functions: no clock, no disk, no network.
"""
