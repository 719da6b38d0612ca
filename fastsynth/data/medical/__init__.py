"""DICOM series, NIfTI volumes and 16-bit pictures: to the tool's own tree of slices and back, bit for bit.

Nothing that names a patient is read beyond what sorts the files, and nothing of that is ever written.
"""
