"""What was published: JSONL lines, manifests, and which records of them are wanted.

| file | what it knows |
| --- | --- |
| `records` | a JSONL line → a frozen record, or a bad record with its reason |
| `columns` | thousands of usual lines → records as Arrow columns, at once |
| `selection` | which records, in which split; pure |
| `files` | JSONL files by ranges of bytes; manifests; what tells a release's rows from another's |
"""
