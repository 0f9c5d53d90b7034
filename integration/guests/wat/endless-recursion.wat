;; Calls itself for ever, with nothing but the call stack to stop it.
(module (func $f (param i64) (call $f (i64.add (local.get 0) (i64.const 1)))) (func (export "_start") (call $f (i64.const 0))))
