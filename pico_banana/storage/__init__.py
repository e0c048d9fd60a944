"""A file wherever it lies, made or fetched once, whole or not at all.

| file | what it knows |
| --- | --- |
| `cache` | the folder of files that are made or fetched once |
| `disk` | a local disk that may fail for a moment |
| `lock` | a lock file, with flock and without |
| `remote` | a file wherever it lies; fetched once, going on where a fetch broke off |
"""
