"""What every test starts from, whatever machine and shell it is run in."""

import os

from hypothesis import settings

# Programs that tests read the words of (nm, ldd, cat) speak English.
os.environ["LC_ALL"] = "C"
os.environ.pop("LANGUAGE", None)
# Files that programs make have the mode that the program asks for, under any shell's umask.
os.umask(0o022)
# An example that takes long on a busy machine is no defect; pytest-timeout ends what hangs. A
# failure tells how to repeat it elsewhere.
settings.register_profile("bitnet", deadline=None, print_blob=True)
settings.load_profile("bitnet")
