package pgidem

import "context"

// Rehydrate makes an answer of a saved reference: the operation returns, and has saved, only what is needed to find the
// answer again, such as an order's ID, and rebuild makes the answer of it, for the first caller as for every replay.
// Replayed, Attempt and ResumedAfter are kept.
//
//	saved, err := pgidem.DoTx(ctx, client, key, placeOrder) // a Result[OrderID]
//	if err != nil {
//		return pgidem.Result[Order]{}, err
//	}
//	return pgidem.Rehydrate(ctx, saved, loadOrder)
//
// It is for answers that are large, or that hold personal data which must not be kept a second time. What is guaranteed to
// every caller is then the same reference; the answer is as it is found when it is asked for, and may have changed.
//
// rebuild's error is returned as it is, with a Result that has everything but the value. The operation is done all the
// same: a retry with the same key rebuilds again and does not run it again. Returns ErrConfig where rebuild is nil.
func Rehydrate[R, T any](ctx context.Context, saved Result[R], rebuild func(ctx context.Context, reference R) (T, error)) (Result[T], error) {
	result := Result[T]{Replayed: saved.Replayed, Attempt: saved.Attempt, ResumedAfter: saved.ResumedAfter}
	if rebuild == nil {
		return result, &Error{Kind: ErrConfig, Reason: "Rehydrate needs a function that rebuilds the answer"}
	}
	value, err := rebuild(ctx, saved.Value)
	if err != nil {
		return result, err
	}
	result.Value = value
	return result, nil
}
