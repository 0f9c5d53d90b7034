;; Traps before _start, in the start function of the module.
(module (func $init unreachable) (start $init) (func (export "_start")))
