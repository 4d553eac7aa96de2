"""One file that carries a model to a machine without a network: `export` and `bring`.

The file is a plain, uncompressed tar that any tar opens::

    overt/archive.json      what is inside: names, sizes, digests, in this order (format.py)
    overt/signer.pem        the public key of whoever exported it
    overt/signature.json    OpenSSF model signature of all the rest (signing.py)
    overt/manifest.json     the manifest, as the store has it
    overt/…                 the manifests this one was made from, its dossier
    model/…                 the files, under the paths their origin gave them

``archive.json`` has the receipts of the models in it too (receipts.py).

The head comes first, so that whoever reads the file from a pipe knows who signed it, and how much
will come, before a single byte is kept. Cut in parts it is the same bytes, ``FILE.001`` and so on.
"""

from overt.models.archive.reader import ImportedArchive, bring
from overt.models.archive.writer import ExportedArchive, export
from overt.security.signing import Signer

__all__ = ["ExportedArchive", "ImportedArchive", "Signer", "bring", "export"]
