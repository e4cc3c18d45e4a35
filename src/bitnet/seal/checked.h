// Before everything else in sanitizer builds: the library stops at an index beyond a span, also
// where memory of the same object lies there, which no sanitizer sees.
// SPDX-License-Identifier: Apache-2.0
#undef _LIBCPP_HARDENING_MODE
#undef _LIBCPP_ASSERTION_SEMANTIC_DEFAULT
#define _LIBCPP_HARDENING_MODE _LIBCPP_HARDENING_MODE_EXTENSIVE
#define _LIBCPP_ASSERTION_SEMANTIC_DEFAULT _LIBCPP_ASSERTION_SEMANTIC_QUICK_ENFORCE
