//! Truth tables of the engine.
