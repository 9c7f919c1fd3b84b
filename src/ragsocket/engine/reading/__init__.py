"""From a file to passages, in processes of their own that are kept on a short leash.

A file may have been written to hang, to flood or to break whoever reads it. So it is read by a
child process with limits on memory, time and output, which is replaced when it dies. `Readers` is
the parent's side; everything else here runs in the child, and imports nothing heavy.
"""
