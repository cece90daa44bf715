"""Builds the package with its translations: Zope reads compiled catalogs, and makes them itself only if told to."""

from pathlib import Path
from setuptools import setup
from setuptools.command.build_py import build_py

CATALOGS = "collective/zcasync/locales/*/LC_MESSAGES/*.po"


class BuildWithCatalogs(build_py):
    """Puts a .mo beside each .po that is built; a checkout gets none, where they would grow old unseen."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        from pythongettext.msgfmt import Msgfmt

        for source in Path(self.build_lib).glob(CATALOGS):
            with source.open("rb") as catalog:
                source.with_suffix(".mo").write_bytes(Msgfmt(catalog, source.stem).get())


setup(cmdclass={"build_py": BuildWithCatalogs})
