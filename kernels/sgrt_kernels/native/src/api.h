// What the C interface of the library is made of.
#pragma once

#define SGRT_API extern "C" __attribute__((visibility("default")))
