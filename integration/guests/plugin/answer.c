/* The library that the plugin needs. */

int podwasm_test_answer(void);

int podwasm_test_answer(void)
{
    return 42;
}
