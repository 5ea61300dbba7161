package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pgidem/pgidem/pgidem"
)

// priceCents is what every ride costs, wherever it goes.
const priceCents = 20_00

// chargeBound is how long a charge may take; who is not answered by then has to ask again.
const chargeBound = 10 * time.Second

type rideRequest struct {
	Customer    string `json:"customer"`
	Origin      string `json:"origin"`
	Destination string `json:"destination"`
	Card        string `json:"card"`
}

type ride struct {
	ID         int64  `json:"ride_id"`
	Customer   string `json:"customer"`
	PriceCents int64  `json:"price_cents"`
	ChargeID   string `json:"charge_id"`
}

// booking is the result and, where this call did the work, when it got the key.
type booking struct {
	pgidem.Result[ride]
	claimed time.Time
}

// book takes a ride from the request to the receipt, once, however often and wherever it is called with the same key.
// After a crash the next call goes on behind the last step that was recorded.
func book(ctx context.Context, client *pgidem.Client, payments *payments, id string, request rideRequest) (booking, error) {
	// A real service takes the customer from the caller's credentials: nobody may ask for somebody else's ride.
	key := pgidem.Key{Scope: request.Customer + "/rides", ID: id}
	var claimed time.Time

	result, err := pgidem.Do(ctx, client, key, func(ctx context.Context, op *pgidem.Op) (ride, error) {
		claimed = time.Now()
		// What it writes is there exactly once: the record of the step is committed with it.
		r, err := pgidem.StepTx(ctx, op, "create_ride", func(ctx context.Context, tx pgidem.Tx) (ride, error) {
			return createRide(ctx, tx, request)
		}, &pgidem.StepOpts[ride]{UndoTx: cancelRide}) // when a later step fails for good
		if err != nil {
			return r, err
		}
		// Between here and the record of the charge everything can be lost: the provider's answer, or this process. The
		// step then runs again, and its key, which is the same in every attempt, makes the provider charge once.
		chargeID, err := pgidem.Step(ctx, op, "charge", func(ctx context.Context, step pgidem.StepContext) (string, error) {
			return payments.charge(ctx, step.Key(), request.Card, r)
		}, &pgidem.StepOpts[string]{Timeout: chargeBound})
		if err != nil {
			return r, err // an ordinary error keeps what was recorded for the next try; a definite one is saved, see charge
		}
		// The last step commits together with the result.
		return pgidem.FinishTx(ctx, op, "receipt", func(ctx context.Context, tx pgidem.Tx) (ride, error) {
			r.ChargeID = chargeID
			return r, writeReceipt(ctx, tx, r)
		})
	}, &pgidem.DoOpts{
		Input:        request, // the same key with another request is refused
		StartsWithTx: true,    // one COMMIT less: the key is claimed in the transaction that creates the ride
	})
	return booking{result, claimed}, err
}

func createRide(ctx context.Context, tx pgidem.Tx, request rideRequest) (ride, error) {
	r := ride{Customer: request.Customer, PriceCents: priceCents}
	err := tx.QueryRow(ctx, `INSERT INTO rides (customer, origin, destination, price_cents) VALUES ($1, $2, $3, $4) RETURNING id`,
		request.Customer, request.Origin, request.Destination, r.PriceCents).Scan(&r.ID)
	if err != nil {
		return r, fmt.Errorf("create the ride: %w", err)
	}
	return r, nil
}

// cancelRide is what becomes of a ride that cannot be paid.
func cancelRide(ctx context.Context, tx pgidem.Tx, r ride) error {
	if _, err := tx.Exec(ctx, `UPDATE rides SET state = 'cancelled' WHERE id = $1`, r.ID); err != nil {
		return fmt.Errorf("cancel the ride: %w", err)
	}
	return nil
}

// writeReceipt books the charge and leaves it to a worker to send the receipt.
func writeReceipt(ctx context.Context, tx pgidem.Tx, r ride) error {
	if _, err := tx.Exec(ctx, `UPDATE rides SET state = 'paid' WHERE id = $1`, r.ID); err != nil {
		return fmt.Errorf("mark the ride as paid: %w", err)
	}
	_, err := tx.Exec(ctx, `INSERT INTO ledger (ride_id, charge_id, amount_cents) VALUES ($1, $2, $3)`, r.ID, r.ChargeID, r.PriceCents)
	if err != nil {
		return fmt.Errorf("book the charge: %w", err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO staged_jobs (kind, args) VALUES ('send_receipt', jsonb_build_object('ride_id', $1::bigint))`, r.ID)
	if err != nil {
		return fmt.Errorf("stage the receipt: %w", err)
	}
	return nil
}
