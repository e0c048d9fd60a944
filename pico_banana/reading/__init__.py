"""Records → examples, range by range: what the loader is made of.

| file | what it knows |
| --- | --- |
| `examples` | a record and its fetched images → an example |
| `estimate` | what a selection's images take, by the sizes of a sample |
| `load_report` | what became of a load's images, and whether a host gave any |
| `reader` | a config's examples range by range |
| `stream` | these examples as `datasets` streams them, continued after any of them |
"""
