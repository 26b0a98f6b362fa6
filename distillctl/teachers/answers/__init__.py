"""A teacher that is only answers: somebody's answers to samples, read from a file, held against it, and brought to the classes of a data set.

`text.py` and `arrays.py` read, `forms.py` is the mathematics, `table.py` puts both together, `matching.py` finds whose answers they are,
`known.py` is the teacher, `writing.py` writes such a file.
"""
