;; As much memory from the start as a 32-bit module can have.
(module (memory (export "memory") 65536) (func (export "_start") (i32.store (i32.const 0) (i32.const 1))))
