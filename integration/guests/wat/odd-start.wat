;; A _start that WASI does not know.
(module (func (export "_start") (param i32)))
