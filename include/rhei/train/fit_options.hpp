// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// What `fit` and `fit_variational` are told, and what they tell.

#include <functional>
#include <limits>
#include <rhei/train/adam.hpp>
#include <rhei/train/schedule.hpp>
#include <vector>

namespace rhei {

/// Where a fit stands at the end of an epoch.
struct FitProgress {
  Index epoch = 0;           ///< epochs completed
  Index step = 0;            ///< optimizer steps taken
  double seconds = 0;        ///< since the run began
  double fraction = 0;       ///< of the run, in [0, 1]
  double learning_rate = 0;  ///< of the last step
  double train_loss = 0;     ///< mean over the epoch, as training saw it, in nats: of -log p for `fit`
  double validation_loss = std::numeric_limits<double>::quiet_NaN();  ///< NaN where there is no validation set
  double gradient_norm = 0;                                           ///< largest of the epoch, before clipping
  double round_trip = 0;  ///< with rebuild_inputs: largest error of a rebuilt batch in the epoch
};

struct FitState;

/// Why a fit ended.
enum class Stop {
  epochs,    ///< FitOptions::epochs were done
  steps,     ///< FitOptions::steps were taken
  seconds,   ///< FitOptions::seconds had passed
  patience,  ///< the validation loss had not improved for FitOptions::patience epochs
  callback   ///< FitOptions::callback returned true
};

/// What a fit did.
struct FitReport {
  Stop stop = Stop::epochs;          ///< why it ended
  std::vector<FitProgress> history;  ///< one entry an epoch
  Index best_epoch = 0;              ///< the one whose parameters the flow was left with; the last without validation
  /// Where it ended.
  [[nodiscard]] const FitProgress& last() const { return history.back(); }
};

/// How to fit. At least one of epochs, steps and seconds must be given; the first that is reached ends the run.
struct FitOptions {
  Index epochs = 0;                      ///< passes over the rows; 0: no limit
  Index steps = 0;                       ///< of the optimizer; 0: no limit
  double seconds = 0;                    ///< of wall-clock time; 0: no limit
  Index batch_size = 256;                ///< rows of a step
  double learning_rate = 1e-3;           ///< of the first steps; the schedule takes it from there
  Schedule schedule = Schedule::cosine;  ///< of the learning rate
  AdamOptions adam = {};                 ///< .weight_decay makes it AdamW
  double clip_norm = 5;                  ///< gradients longer than this are shortened to it; 0: never
  double validation_fraction = 0;  ///< part of the rows that is held out, chosen at random; the best epoch is restored
  Index patience = 0;              ///< epochs without a better validation loss after which to stop; 0: never
  int threads = 1;  ///< parts of a minibatch worked on at a time; results differ by rounding only, or by draws
  /// The backward pass rebuilds the input of each layer from its output instead of keeping it: memory does not grow
  /// with the depth of the flow, a step costs two more evaluations, and gradients are as good as
  /// FitProgress::round_trip says.
  bool rebuild_inputs = false;
  bool progress = false;  ///< a line on standard error: redrawn on a terminal, sparse elsewhere
  std::function<bool(const FitProgress&)> callback = {};  ///< after every epoch; true stops the run
  /// After every epoch, before `callback`: all that a run needs to go on from there. See io/checkpoint.hpp.
  std::function<void(const FitState&)> checkpoint = {};
  /// Before the first epoch: may set the run to where another one stood, which it then continues bit for bit.
  std::function<void(FitState&)> resume = {};
};

}  // namespace rhei
