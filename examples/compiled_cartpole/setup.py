"""python setup.py build_ext --inplace"""
import fastvec_c
from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    name="cartpole",
    ext_modules=cythonize(
        [Extension("cartpole", ["cartpole.pyx"], include_dirs=[fastvec_c.get_include()])],
        language_level=3,
    ),
)
