// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Everything, folder by folder: a header includes only from folders above its own.

/// \namespace rhei
/// Flows and all that they are made of: bases, layers, nets, training, files.

/// \namespace rhei::models
/// Flows of the literature, ready to be trained: one function each, with a struct of options.

/// \namespace rhei::data
/// Densities and energies in two dimensions, to try flows on.

#include <rhei/core/any_distribution.hpp>
#include <rhei/core/any_flow.hpp>
#include <rhei/core/any_layer.hpp>
#include <rhei/core/call.hpp>
#include <rhei/core/chain.hpp>
#include <rhei/core/distribution.hpp>
#include <rhei/core/domain.hpp>
#include <rhei/core/erasure.hpp>
#include <rhei/core/errors.hpp>
#include <rhei/core/features.hpp>
#include <rhei/core/flow.hpp>
#include <rhei/core/inverted.hpp>
#include <rhei/core/layer.hpp>
#include <rhei/core/options.hpp>
#include <rhei/core/parallel_flow.hpp>
#include <rhei/core/parameters.hpp>
#include <rhei/core/random.hpp>
#include <rhei/core/types.hpp>
#include <rhei/core/workers.hpp>

#include <rhei/nn/activation.hpp>
#include <rhei/nn/dense.hpp>
#include <rhei/nn/few_rows.hpp>
#include <rhei/nn/made.hpp>
#include <rhei/nn/math.hpp>
#include <rhei/nn/mlp.hpp>
#include <rhei/nn/monotone_root.hpp>
#include <rhei/nn/net.hpp>
#include <rhei/nn/normal_quantile.hpp>
#include <rhei/nn/periodic.hpp>
#include <rhei/nn/product.hpp>
#include <rhei/nn/product_kernel.hpp>
#include <rhei/nn/residual_mlp.hpp>
#include <rhei/nn/staircase_product.hpp>

#include <rhei/transformers/affine.hpp>
#include <rhei/transformers/inverted_transformer.hpp>
#include <rhei/transformers/rational_quadratic.hpp>
#include <rhei/transformers/scale_map.hpp>
#include <rhei/transformers/shift.hpp>
#include <rhei/transformers/transformer.hpp>

#include <rhei/distributions/diagonal_normal.hpp>
#include <rhei/distributions/gaussian_mixture.hpp>
#include <rhei/distributions/iid.hpp>
#include <rhei/distributions/logistic.hpp>
#include <rhei/distributions/made_mixture.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/distributions/uniform.hpp>
#include <rhei/distributions/uniform_normal.hpp>

#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/affine_map.hpp>
#include <rhei/layers/autoregressive.hpp>
#include <rhei/layers/batch_norm.hpp>
#include <rhei/layers/circular_shift.hpp>
#include <rhei/layers/coupling.hpp>
#include <rhei/layers/dense_linear.hpp>
#include <rhei/layers/domains.hpp>
#include <rhei/layers/elementwise_affine.hpp>
#include <rhei/layers/householder.hpp>
#include <rhei/layers/lu_linear.hpp>
#include <rhei/layers/marginal_gaussianization.hpp>
#include <rhei/layers/on_features.hpp>
#include <rhei/layers/permutation.hpp>
#include <rhei/layers/planar.hpp>
#include <rhei/layers/radial.hpp>
#include <rhei/layers/rescaling.hpp>
#include <rhei/layers/rotation.hpp>
#include <rhei/layers/spline_coupling.hpp>
#include <rhei/layers/sylvester.hpp>

#include <rhei/train/adam.hpp>
#include <rhei/train/batches.hpp>
#include <rhei/train/distillation.hpp>
#include <rhei/train/draws.hpp>
#include <rhei/train/fit.hpp>
#include <rhei/train/fit_options.hpp>
#include <rhei/train/fit_state.hpp>
#include <rhei/train/fit_variational.hpp>
#include <rhei/train/importance.hpp>
#include <rhei/train/log_density.hpp>
#include <rhei/train/log_variance.hpp>
#include <rhei/train/objective.hpp>
#include <rhei/train/progress.hpp>
#include <rhei/train/reverse_kl.hpp>
#include <rhei/train/run.hpp>
#include <rhei/train/schedule.hpp>
#include <rhei/train/trainer.hpp>

#include <rhei/io/checkpoint.hpp>
#include <rhei/io/csv.hpp>
#include <rhei/io/file.hpp>
#include <rhei/io/flow_file.hpp>
#include <rhei/io/json.hpp>
#include <rhei/io/load.hpp>
#include <rhei/io/npy.hpp>
#include <rhei/io/safetensors.hpp>

#include <rhei/data/energies.hpp>
#include <rhei/data/smeared_curve.hpp>
#include <rhei/data/toy_densities.hpp>
#include <rhei/data/toys.hpp>

#include <rhei/models/export_zuko.hpp>
#include <rhei/models/gaussianization.hpp>
#include <rhei/models/glow.hpp>
#include <rhei/models/import_nflows.hpp>
#include <rhei/models/import_zuko.hpp>
#include <rhei/models/maf.hpp>
#include <rhei/models/mixed_nsf.hpp>
#include <rhei/models/nice.hpp>
#include <rhei/models/nsf.hpp>
#include <rhei/models/optimize_for_inference.hpp>
#include <rhei/models/planar.hpp>
#include <rhei/models/rbig.hpp>
#include <rhei/models/realnvp.hpp>

#include <rhei/version.hpp>
