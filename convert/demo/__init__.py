"""The generated release: made, served, taken the whole way, and looked at.

| file | what it knows |
| --- | --- |
| `sample_scenes` | its pictures as parameters, with 35 edits |
| `sample_filters` | pictures, filtered |
| `sample_drawing` | pictures, drawn |
| `sample_release` | the release in the exact wire format; the tests use it too |
| `contact_sheet` | pictures on one sheet |
| `demo` | the whole way, as a user would go it |
"""
