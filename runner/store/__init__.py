"""The store of a run: what outlives the machine.

`objects` is the protocol, behind it `file`, `s3`, `gs`; `layout` says what lies where; `lease` who may commit; `cut`,
`upload` and `restore` how a run directory becomes a snapshot and back; `hold` owns a run while a runner works on it,
`place` tells which state it goes on from, and `keeper` keeps the store up to date beside training.
"""
