//! How verified weights are served to peers, and to other engines of this machine.
//!
//! It knows who may have which weights (by `policy`) and where their bytes are (by `loader`). It knows no model, no
//! kernel and no request for tokens.
