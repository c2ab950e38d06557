"""The store of a run: what outlives the machine.

`objects` is the protocol, behind it `file`, `s3`, `gs`; `layout` says what lies where; `lease` who may commit;
`snapshots` how a run directory becomes a snapshot and back; `keeper` keeps it up to date beside training.
"""
