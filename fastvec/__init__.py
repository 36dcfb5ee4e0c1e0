"""fastvec: many CPU simulators behind one policy."""
