// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Everything but the optional integrations, folder by folder: a header includes only from folders above its own.

#include <rhei/core/any_layer.hpp>
#include <rhei/core/call.hpp>
#include <rhei/core/chain.hpp>
#include <rhei/core/errors.hpp>
#include <rhei/core/features.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/core/layer.hpp>
#include <rhei/core/options.hpp>
#include <rhei/core/parameters.hpp>
#include <rhei/core/random.hpp>
#include <rhei/core/types.hpp>

#include <rhei/transformers/affine.hpp>
#include <rhei/transformers/scale_map.hpp>
#include <rhei/transformers/shift.hpp>
#include <rhei/transformers/transformer.hpp>

#include <rhei/distributions/diagonal_normal.hpp>
#include <rhei/distributions/distribution.hpp>
#include <rhei/distributions/gaussian_mixture.hpp>
#include <rhei/distributions/iid.hpp>
#include <rhei/distributions/logistic.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/distributions/uniform.hpp>

#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/layers/permutation.hpp>
#include <rhei/layers/rescaling.hpp>

#include <rhei/io/csv.hpp>
#include <rhei/io/file.hpp>
#include <rhei/io/json.hpp>
#include <rhei/io/npy.hpp>
#include <rhei/io/safetensors.hpp>

#include <rhei/data/smeared_curve.hpp>
#include <rhei/data/toy_densities.hpp>
#include <rhei/data/toys.hpp>

#include <rhei/version.hpp>
